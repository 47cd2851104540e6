"""The steps of an adaptation, one after the other in `pipelines/adapt.py`."""
