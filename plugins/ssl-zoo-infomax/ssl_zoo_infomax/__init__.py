"""Deep InfoMax, and MINE as an estimator of mutual information, for ssl-zoo."""
