"""How cross-entropy plus CPG is computed fast: value and gradient in one pass over rows of upsampled logits."""
