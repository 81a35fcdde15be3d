"""Tables of kernels, from results by hand."""

from reports.kernel_tables import code_table


def test_registers_are_listed_by_architecture() -> None:
    code = {"case": "merge", "architecture": 80, "registers": 48, "stack": 0, "local": 0}
    code |= {"loads": {"32": 1, "128": 2}, "stores": {"64": 1}}
    table = code_table([code, {**code, "architecture": 90, "registers": 50, "local": 8}])
    assert "| merge | 48 | 50 | 8 | 128 | 64 |" in table
    assert "Not measured" in code_table(None)
