"""tbeast: a crypto price oracle and reporting daemon on Twisted."""
