"""What people look at: the HTML report, charts, galleries, tables, and their wording in two languages."""
