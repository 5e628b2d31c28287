"""Train a diffusion model from scratch on your own pictures, and draw new ones from it."""
