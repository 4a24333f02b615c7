"""The application that ``gwproxy admin`` gives to its server."""

from gwproxy.admin.app import AdminApp

application = AdminApp()
