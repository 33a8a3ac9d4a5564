"""Data valuation: targets, the attack on their influence ranks, and its evaluation."""
