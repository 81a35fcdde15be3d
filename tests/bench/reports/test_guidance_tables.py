"""Tables of the studies of guidance, from results by hand."""

from reports.guidance_tables import (
    any_classifier_table,
    choices_table,
    few_steps_table,
    guidance_study_table,
)


def test_a_variant_of_guidance_is_told_by_domain_and_by_means_over_those_it_has() -> None:
    def row(fid: float, share: float) -> dict:
        shares = {"judge_domain": share, "judge_class": 1.0, "teacher_class": 0.75, "l_bn": 400.4}
        interval = {"value": fid, "low": fid - 1, "high": fid + 2}
        return {
            "images": 56,
            "metrics": {
                "fid": interval,
                "recall": {"value": share / 2},
                "coverage": {"value": share, "low": share, "high": share + 0.5},
            },
            "shares": shares,
            "flops_per_image": 33.08e9,
        }

    rows = {
        "default/photo": row(10.0, 0.5),
        "default/art_painting": row(20.0, 0.75),
        "CFG 2/photo": row(8.0, 0.25),
    }
    table = guidance_study_table({"rows": rows})
    assert "56 images of each variant and domain, 2 domains;" in table
    assert "about ± 1.5 in FID and ± 0.25 in coverage." in table
    assert (
        "| variant | FID photo | FID art painting | FID | recall | coverage | judge's domain |"
        in table
    )
    assert (
        "| default | 10.0 | 20.0 | 15.0 | 0.31 | 0.62 | 0.62 | 1.00 | 0.75 | 400 | 33.1 |" in table
    )
    assert "| CFG 2 | 8.0 |  | 8.0 | 0.12 | 0.25 | 0.25 |" in table


def test_few_steps_are_told_by_variant_where_every_domain_was_drawn() -> None:
    def row(domain: float, noun: float, **more: float) -> dict:
        return {"shares": {"judge_domain": domain, "judge_class": noun}} | more

    rows = {
        "guided, 30 steps/art_painting": row(0.5, 1.0, flops_per_image=48e9),
        "guided, 30 steps/sketch": row(0.7, 0.8),
        "8 steps, 1 move of 0.2/art_painting": row(0.1, 0.9, flops_per_image=11e9),
    }
    table = few_steps_table({"rows": rows, "settings": {"images_per_class": 8}})
    assert "of 8 images of each class and domain" in table
    assert "| variant | art painting | sketch | mean | GFLOP an image |" in table
    assert "| guided, 30 steps | 0.50 / 1.00 | 0.70 / 0.80 | 0.60 / 0.90 | 48.0 |" in table
    assert "1 move" not in table


def test_a_way_that_not_every_domain_has_is_shown_without_means() -> None:
    def row(kl: float, fid: float) -> dict:
        metrics = {"fid": fid, "coverage": 0.5, "recall": 0.6}
        return {
            "student": {
                "kl": {"mean": kl, "spread": 0.125},
                "accuracy": {"mean": 0.5, "spread": 0.01},
            },
            "metrics": {
                name: {"value": value, "low": value, "high": value + 0.5}
                for name, value in metrics.items()
            },
            "shares": {"judge_domain": 0.7, "judge_class": 0.9},
            "flops_per_image": 48e9,
        }

    rows = {"0.1/photo": row(0.5, 4.0), "0.1/sketch": row(0.7, 6.0), "0.2/photo": row(0.6, 5.0)}
    settings = {"images_per_class": 51, "seeds": 2, "student": "resnet18/4"}
    table = choices_table({"rows": rows, "settings": settings})
    assert (
        "± 0.2 in FID and ± 0.25 in coverage. In a domain, students' KL varies by ± 0.12" in table
    )
    lines = table.splitlines()
    assert lines[-2:] == [
        "| 0.1 | 0.50 | 0.70 | 0.600 | 50.0 | 5.00 | 0.50 | 0.60 | 0.70 | 0.90 | 48.0 |",
        "| 0.2 | 0.60 |  |  |  |  |  |  |  |  |  |",
    ]


def test_a_source_of_statistics_gains_a_share_of_what_batch_norm_gains() -> None:
    def row(fid: float, coverage: float) -> dict:
        values = {"fid": fid, "coverage": coverage}
        metrics = {
            name: {"value": value, "low": value, "high": value} for name, value in values.items()
        }
        return {"metrics": metrics, "shares": {"judge_domain": 0.5, "judge_class": 0.9}}

    rows = {
        "plain/photo": row(10.0, 0.2),
        "plain/sketch": row(14.0, 0.2),
        "resnet, BatchNorm/photo": row(6.0, 0.4),
        "resnet, BatchNorm/sketch": row(6.0, 0.6),
        "convnext, file/photo": row(8.0, 0.3),
        "convnext, file/sketch": row(10.0, 0.4),
        "convnext, energy/photo": row(11.0, 0.1),
    }
    lines = any_classifier_table({"rows": rows, "settings": {"images_per_class": 17}}).splitlines()
    assert lines[-2:] == [
        "| convnext, file | 8.0 / 0.30 | 10.0 / 0.40 | 9.0 | 0.35 | 0.50 | 0.90 | 0.50 | 0.50 |",
        "| convnext, energy | 11.0 / 0.10 |  |  |  |  |  |  |  |",
    ]
