"""How certpilot is run: the lab (the world in miniature), customer servers, service units."""
