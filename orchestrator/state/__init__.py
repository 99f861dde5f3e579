"""All of Redis: keys, scripts, connections and one store per thing stored."""
