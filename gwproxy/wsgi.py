"""The application for a WSGI server: ``gunicorn -c gunicorn.conf.py gwproxy.wsgi:application``."""

from gwproxy.app import create_app

application = create_app()
