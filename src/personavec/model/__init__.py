"""Model access: loading, chat templates, blocks, capture, steering, and the engine that decodes."""
