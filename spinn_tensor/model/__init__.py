"""Models of sentences: leaves and cells, which own the parameters, encoders, and classifiers over encodings."""
