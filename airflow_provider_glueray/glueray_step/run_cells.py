"""Run the cells of a notebook: the script of a notebook that is one job, with the archive of ``glueray_step``."""

if __name__ == "__main__":
    from glueray_step.cells import run_cells

    run_cells()
