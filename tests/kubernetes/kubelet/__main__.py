"""The kubelet of one node, as a process: ``python -m tests.kubernetes.kubelet NODE``."""

import logging
import sys

from tests.kubernetes.kubelet.node import Kubelet
from tests.kubernetes.kubelet.server import serve
from tests.kubernetes.layout import NODES, Layout

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    here = Layout.here()
    mine = Kubelet(here, next(node for node in NODES if node.name == sys.argv[1]))
    serve(mine, here)
    mine.run()
