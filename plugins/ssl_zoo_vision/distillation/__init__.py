"""Self-distillation tasks: a student predicts a teacher, without negatives."""
