"""Greenpea: people and Bayesian networks classify images together."""
