"""From a registry row or a user's folder to arrays that a model can be trained on."""
