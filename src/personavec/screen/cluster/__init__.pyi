from .choice import cluster as cluster
