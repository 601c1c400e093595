"""fvae: VAEs, normalizing flows and everything between them, under one objective."""
