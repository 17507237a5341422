"""Parts of models: encoder, item representations, masks, losses, dropout."""
