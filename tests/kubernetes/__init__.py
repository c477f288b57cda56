"""A real Kubernetes with a real KubeRay for the tests, without containers. See CONTRIBUTING.md."""
