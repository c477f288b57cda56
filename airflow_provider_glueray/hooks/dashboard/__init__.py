"""Ray's dashboard and its Jobs API, by a connection to Ray or through the API server of a Kubernetes cluster."""
