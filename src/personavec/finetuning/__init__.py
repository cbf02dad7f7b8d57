"""What a finetune is made of: rows and settings, the trainer, mitigations, the dose, the drift."""
