"""The attribution page: the frame it draws and its template. It decides nothing."""
