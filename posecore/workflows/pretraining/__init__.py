"""What pre-training does and is judged by, for `pipelines/pretrain.py`."""
