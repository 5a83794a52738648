"""The service over HTTP: the REST API, who may use it, its metrics.

Handlers translate between HTTP and the functions that the command line uses too; no policy lives here.
"""
