"""Commands for people and CI; each answers `--help`.

- Experiments: search/ tries params, report/ writes a page of results, experiments.py shares and recovers, tried.py
  prints the log of ideas, results.py the tables of the documentation, compare.py tells reproduced from different.
- Quality: noise/ estimates what the labels allow, robustness.py what changes an answer, drift.py what has changed.
- The bucket: remote.py pushes and pulls, verify.py checks lock and bucket, gcs.py is a bucket on this machine,
  story.sh plays all of it through.
- Releases: ci/ has the steps of the workflows, canary.py checks a service, deploy.py takes a model to the cloud.
"""
