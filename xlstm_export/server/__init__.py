"""A bundle behind HTTP: OpenAI's completions, forecasts, conversations that outlive processes; on Ray Serve."""
