"""Networks: what maps an image, and a time where there is one, to an image or to logits."""
