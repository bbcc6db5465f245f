"""What several tests share: models, videos, servers that misbehave, and small stages."""
