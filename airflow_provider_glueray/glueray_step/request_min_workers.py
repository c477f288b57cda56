"""Ask an autoscaler for CPUs by a placement group, and end with the process whose id is given.

The group is removed as soon as Ray has placed it, that is when the cluster has grown: it holds no CPU. This process is
a Ray driver of its own beside the script. The Jobs API has no such request, and one by ``request_resources`` would
outlive a script that is killed. This file is sent as text. Python 3.9, Ray 2.9.
"""

import os
import sys
import threading
import time


def end_with(process_id: int) -> None:
    """Wait for the end of the parent process, then end this one."""
    while os.getppid() == process_id:
        time.sleep(0.5)
    os._exit(0)


def main() -> None:
    """Read the number of CPUs and the id of the parent process from the command line."""
    threading.Thread(target=end_with, args=[int(sys.argv[2])], daemon=True).start()
    os.environ.pop("RAY_JOB_CONFIG_JSON_ENV_VAR", None)  # with it, this driver would be one more of the job
    import ray
    from ray.util import placement_group, remove_placement_group

    ray.init("auto", log_to_driver=False)
    group = placement_group([{"CPU": 1}] * int(sys.argv[1]))
    while not group.wait(60):
        pass
    remove_placement_group(group)


if __name__ == "__main__":
    main()
