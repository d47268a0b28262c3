"""What commands do with several stages together: prepare a deployment, replay a trace."""
