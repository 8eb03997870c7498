"""Fast cross-entropy plus CPG: value and gradient in one pass over rows of upsampled logits."""
