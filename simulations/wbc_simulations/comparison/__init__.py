"""Methods side by side: from finished runs to paired differences, tables, pictures and the page of results."""
