"""A small kubelet: a pod is a network namespace, and each of its containers a process with its own mounts.

What it has not: images (`images`), limits of memory and CPU, and restarts of itself. What it says of a pod, when, and
in which words is as a real one says it: this is what the project reads.
"""
