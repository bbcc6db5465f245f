"""Which judges there are, and those behind a network: Gemini and any OpenAI-compatible endpoint."""
