"""What pixels become before any model sees them."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""What every model subtracts from red, green and blue in [0, 1]."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""What every model divides by after that."""
