import time, pytest
from tests.load.test_modes import *
from tests.load.test_modes import bench as _b
SETUPS={"global":Setup(),"backoff":Setup(mode=Mode.BACKOFF),"temporal":Setup(mode=Mode.TEMPORAL,rates={"llm":RATE}),"process":Setup(mode=Mode.PROCESS),"divided":Setup(mode=Mode.PROCESS,share=.5)}
for n in list(globals()):
    if n.startswith("test_"): del globals()[n]
@pytest.mark.parametrize("name", list(SETUPS))
async def test_m(bench, name):
    s=SETUPS[name]
    async with bench.working(s.argv(["agents","llm"]), s.argv(["llm"])):
        t=time.time(); r=await bench.greet(); took=time.time()-t
        told=await health(bench)
    c=await bench.calls(); ok=[a for a,o in c if o=="ok"]
    w=sorted(ok); 
    with open("/tmp/modes.out","a") as f: print(name, "took %.1f"%took, "calls",len(c),"429",refused(c),"span %.1f"%(max(ok)-min(ok)), "waits %.1f"%sum(sum(x.quota_waits_s) for x in r), file=f)
