"""The methods: ways from a request to images, behind one interface (`base.Prepared`).

`ddis` and `plain` draw with a prior. The inversions make images from a classifier alone and are what DDIS is compared
with; they are written from their papers.
"""
