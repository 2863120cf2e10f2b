(async () => [])()
