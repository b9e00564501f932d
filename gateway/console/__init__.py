"""The console: pages for whoever is on call, drawn on the server, live where JavaScript runs, whole where it does not.

A page is one template; the part of it that changes is a template of its own (`_overview.html`), which is sent again
whenever it differs, as a server-sent event, and swapped in section by section by `static/live.js`. Forms are plain and
stand outside of that part, so that nothing that somebody types is ever swapped away. Every page has a twin in JSON
(`?format=json`), and loads nothing from elsewhere.
"""
