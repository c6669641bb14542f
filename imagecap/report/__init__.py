"""Reports: the HTML page, charts, galleries and tables, in two languages."""
