// For each line of JSON, what npm's http-cache-semantics decides. Times in seconds.
const CachePolicy = require('http-cache-semantics')
const readline = require('readline')

let now = 0
CachePolicy.prototype.now = () => now * 1000

readline.createInterface({ input: process.stdin }).on('line', line => {
  const { request, status, headers, shared, received, asked, again } = JSON.parse(line)
  now = received
  const policy = new CachePolicy(
    { url: '/', method: 'GET', headers: request },
    { status, headers },
    { shared, cacheHeuristic: 0, immutableMinTimeToLive: 0 }
  )
  const storable = policy.storable()
  now = asked
  const verdict = policy.evaluateRequest({ url: '/', method: 'GET', headers: again })
  console.log(JSON.stringify({
    storable,
    lifetime: policy.maxAge(),
    age: policy.age(),
    answers: verdict.response !== undefined,
    asks: verdict.revalidation !== undefined
  }))
})
