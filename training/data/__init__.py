"""What training reads: prompts and their embeddings, latent clips, trajectories, and procedural scenes."""
