"""Self-distillation of regressors and classifiers: scikit-learn estimators, no diffusion."""
