// Prints the cases of npm's http-cache-tests as JSON.
import suites from './node_modules/http-cache-tests/tests/index.mjs'

console.log(JSON.stringify(suites))
