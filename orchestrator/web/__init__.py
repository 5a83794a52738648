"""The dashboard: pages rendered on the server, readable without JavaScript, which keep themselves up to date with it.

Pages show what `orchestrator.views` finds; whatever changes something goes through the API's own handlers.
"""
