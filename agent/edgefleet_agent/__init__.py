"""The agent: proves models on the device it runs on, and activates only what passed."""
