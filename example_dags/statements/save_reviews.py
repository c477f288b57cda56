"""Write the reviews that are kept; the file's templates are rendered for each run."""

import pyarrow.fs

target = "{{ params.output.rstrip('/') }}/day={{ (dag_run.data_interval_start or dag_run.run_after) | ds }}"
# What an earlier run of the same day has left is removed first, so that running twice is as good as once.
filesystem, directory = pyarrow.fs.FileSystem.from_uri(target)
filesystem.create_dir(directory, recursive=True)
filesystem.delete_dir_contents(directory)
kept.repartition(2).write_parquet(target)  # noqa: F821 - an earlier statement has made it
return_value = sum(info.size > 0 for info in filesystem.get_file_info(pyarrow.fs.FileSelector(directory)))
