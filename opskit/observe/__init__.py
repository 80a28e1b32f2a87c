"""Watching an environment: metrics, alerts, who is told, dashboards, probes.

What is watched is rendered from `templates/` and the `monitoring` section of environments.yaml by
the pure `rendering`; nothing is rendered whose alerts lack a severity, a runbook or a panel to
look at. `site` runs Prometheus and Alertmanager on this machine from the rendered files. Nothing
here is imported by what deploys, but for `silence` and `facts`.
"""
