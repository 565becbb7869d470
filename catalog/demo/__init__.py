"""The look-alike archive: synthetic COGs, the STAC items of three catalogs, a server for both.

What ``cogcat demo`` shows and what the tests crawl. The bytes are real GeoTIFFs
made by GDAL and served with real HTTP ranges; **the pixels are synthetic**.

    cogs.py       array -> one COG, laid out like Earth Search's
    landscape.py  tile, date -> the bands of one plausible scene
    products.py   names, keys and times of a made-up scene
    documents.py  scene -> STAC item, in the words of each catalog
    archive.py    tiles × dates -> a directory of COGs and the items that name them
    faults.py     what a server gets wrong on demand
    http_connection.py, http_ranges.py   HTTP/1.1; ranges and conditions of one file
    stac_api.py   items -> the answers of a STAC API; pure
    server.py     files and STAC APIs of an archive over HTTP
"""
