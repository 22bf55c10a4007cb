"""How rows and models meet: the session protocol, statements, filters, paging, documents and limits."""
