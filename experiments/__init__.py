"""One short module per figure; each rebuilds it from the results of `jaxsched run`."""
